"""How full the device's battery is, as Linux tells it."""

from __future__ import annotations

from pathlib import Path

POWER_SUPPLIES = Path("/sys/class/power_supply")


def read_charge(folder: Path = POWER_SUPPLIES) -> float:
    """Share of the charge that is left in [0, 1]; 1 on mains, without a battery, or where nobody tells.

    Args:
        folder: One folder a supply, with ``type``, ``status`` and ``capacity`` (percent); see the kernel's ABI document
            ``sysfs-class-power``.
    """
    charges = []
    for supply in sorted(folder.glob("*")):
        try:
            kind, status = _word(supply / "type"), _word(supply / "status")
            if kind == "Battery" and status == "Discharging":
                charges.append(int(_word(supply / "capacity")) / 100)
        except (OSError, ValueError):
            continue  # a supply that does not say
    return min(charges, default=1.0)


def _word(path: Path) -> str:
    return path.read_text(encoding="ascii").strip()
