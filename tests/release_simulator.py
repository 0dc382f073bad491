"""A whole publisher in a temporary folder, for tests of either end: real keys, real metadata, no network."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

from securesystemslib.signer import CryptoSigner

from cloud_service.releases.keys import sign_file
from cloud_service.releases.publisher import ReleaseRequest, StagedRelease, stage_release
from cloud_service.releases.repository import ReleaseRepository, utc_now
from cloud_service.releases.roles import make_root, make_targets
from partition.release.desired import Desired


class Publisher:
    """Three root keys, three targets keys, one online key a role; ``now`` may be moved."""

    def __init__(self, folder: Path, now: datetime | None = None) -> None:
        self.now = now or utc_now()
        self.root = [CryptoSigner.generate_ed25519() for _ in range(3)]
        self.targets = [CryptoSigner.generate_ed25519() for _ in range(3)]
        self.online = {
            role: CryptoSigner.generate_ed25519() for role in ("timestamp", "snapshot", "director")
        }
        self.folder = folder
        self.repository = ReleaseRepository(folder, self.online, now=lambda: self.now)

    def begin(self) -> bytes:
        """Hold the ceremony; returns the first root, as programs ship it."""
        root = make_root(
            {
                "root": tuple(signer.public_key for signer in self.root),
                "targets": tuple(signer.public_key for signer in self.targets),
                "timestamp": (self.online["timestamp"].public_key,),
                "snapshot": (self.online["snapshot"].public_key,),
            },
            self.repository.expiry("root"),
        )
        self.repository.stage(root)
        self.repository.stage(
            make_targets(self.online["director"].public_key, self.repository.expiry("targets"))
        )
        self.sign("root", self.root)
        self.sign("targets", self.targets)
        self.repository.commit()
        first = self.repository.read("1.root.json")
        assert first is not None
        return first

    def sign(self, role: str, signers: list[CryptoSigner], count: int = 2) -> None:
        (path,) = (self.folder / "staged").glob(f"*.{role}.json")
        for signer in signers[:count]:
            sign_file(path, signer)

    def publish(
        self, release: str, files: dict[str, bytes], *, channel: str = "cxr", **request: object
    ) -> StagedRelease:
        """Make, sign and commit one release of these files."""
        bundle = self.folder / "bundles" / release
        for path, data in files.items():
            (bundle / path).parent.mkdir(parents=True, exist_ok=True)
            (bundle / path).write_bytes(data)
        fields = {"fingerprint": f"fingerprint of {release}", **request}
        staged = stage_release(
            self.repository,
            ReleaseRequest(release=release, bundle=bundle, channels=(channel,), **fields),
        )
        self.sign("targets", self.targets)
        self.repository.commit()
        return staged

    def desire(self, release: str, *, channel: str = "cxr", **changes: object) -> Desired:
        """Have every device of the channel run a release."""
        before = self.repository.desired(channel)
        version = 1 if before is None else before.version + 1
        desired = Desired(**{"version": version, "salt": release, "base": release, **changes})
        self.repository.set_desired(channel, desired)
        return desired
