"""Invented places and houses: towns, streets, postcodes, hospitals and employers."""

from __future__ import annotations

from cloud_service.training.ner.values import Values


def town(values: Values) -> str:
    """A town."""
    if values.rng.random() < 0.3:
        suffixes: tuple[str, ...] = (
            "ville",
            "ton",
            "burg",
            " Falls",
            " Springs",
            "field",
            "port",
            " Beach",
            " Heights",
            "",
        )
        if values.language == "pt":
            suffixes = (
                "ópolis",
                "lândia",
                " do Sul",
                " da Serra",
                "tuba",
                "mirim",
                "",
                " do Norte",
            )
        return values.invented(values.rng.choice((1, 2))) + values.rng.choice(suffixes)
    return values.rng.choice(values.names.towns)


def street(values: Values) -> str:
    """Street, number and unit."""
    stem = values.pick(
        values.family(),
        values.given(),
        town(values),
        values.invented(2),
        f"{values.family()} {values.pick('Hill', 'Park', 'Lake', 'Creek', 'Mill')}",
    )
    if values.language == "pt":
        kind = values.pick(
            "Rua", "Avenida", "Av.", "R.", "Travessa", "Alameda", "Praça", "Rodovia", "Estrada"
        )
        name = values.pick(
            stem,
            f"{values.pick('Dr.', 'Coronel', 'Padre', 'Prof.', 'Dom', 'São')} {stem}",
            f"das {stem}",
            values.full_name(),
        )
        number = values.number(1, 4000)
        return values.pick(
            f"{kind} {name}, {number}", f"{kind} {name}, nº {number}", f"{kind} {name}",
            f"{kind} {name}, {number}, apto {values.number(1, 1200)}", f"{kind} {name} {number}, bloco {values.letter()}",
        )  # fmt: skip
    kind = values.pick(
        "Street",
        "St",
        "Ave",
        "Avenue",
        "Road",
        "Rd",
        "Lane",
        "Ln",
        "Drive",
        "Dr",
        "Blvd",
        "Court",
        "Ct",
        "Way",
        "Place",
        "Terrace",
        "Circle",
        "Pkwy",
    )
    unit = values.pick(
        "",
        "",
        "",
        f", Apt {values.number(1, 99)}",
        f" #{values.number(1, 40)}",
        f", Unit {values.letter()}",
        f", Suite {values.number(100, 900)}",
    )
    return f"{values.number(1, 9999)} {values.pick('', '', 'N ', 'West ')}{stem} {kind}{unit}"


def postcode(values: Values) -> str:
    """A postcode."""
    if values.language == "pt":
        return f"{values.digits(5, 5)}-{values.digits(3, 3)}"
    return values.pick(values.digits(5, 5), f"{values.digits(5, 5)}-{values.digits(4, 4)}")


def organization(values: Values) -> str:
    """A hospital, laboratory, home, school or employer."""
    stem = values.pick(values.family(), town(values), values.invented(2), f"{values.pick('St.', 'Saint', 'Mount', 'North', 'Lake', 'Good')} {values.given()}",
                     f"{values.invented(2)} {values.pick('Valley', 'Ridge', 'County', 'River', 'Park')}")  # fmt: skip
    if values.language == "pt":
        stem = values.pick(stem, f"{values.pick('São', 'Santa', 'Nossa Senhora de', 'Dom', 'Dr.')} {values.given()}", f"{values.pick('Jardim', 'Vila', 'Parque')} {values.invented(2)}",
                         f"{values.pick('da', 'do', 'de')} {town(values)}")  # fmt: skip
        head = values.pick(
            "Hospital", "Hospital Municipal", "Hospital Regional", "Hospital Universitário", "Clínica", "Clínica Médica", "Laboratório", "UPA", "UBS", "Santa Casa de",
            "Maternidade", "Policlínica", "Instituto", "Centro de Saúde", "Casa de Repouso", "Escola Estadual", "Colégio", "Universidade Federal de", "Supermercado",
            "Construtora", "Transportadora", "Metalúrgica", "Prefeitura de", "Banco", "Padaria", "Farmácia", "Grupo", "Ambulatório", "Pronto-Socorro", "Fundação", "Cooperativa", "Indústria",
        )  # fmt: skip
        return f"{head} {stem}" + values.pick("", "", "", " Ltda", " S.A.", " e Filhos")
    tail = values.pick(
        "Hospital", "General Hospital", "Medical Center", "Clinic", "Health", "Regional Medical Center", "Family Practice", "Nursing Home", "Imaging", "Radiology Associates",
        "Laboratory", "Hospice", "Elementary School", "High School", "University", "College", "Rehabilitation Center", "Care Center", "Surgery Center", "Dialysis",
        "Logistics", "Foods", "Insurance", "Bank", "Manufacturing", "Construction", "Steel", "Trucking", "Police Department", "Fire Department", "Bakery", "Motors",
        "Supermarket", "Church", "Pharmacy", "Electric", "Airlines", "Industries", "Community Health Center", "Children's Hospital", "Orthopedics", "Physical Therapy", "Senior Living",
    )  # fmt: skip
    return values.pick(
        f"{stem} {tail}", f"{stem} {tail}", f"{stem} {tail}", f"{stem} {tail} {values.pick('Inc.', 'LLC', 'Ltd', 'Group', 'Partners')}",
        f"{values.pick('University', 'Children’s Hospital', 'Cancer Institute', 'Heart Center')} of {town(values)}", f"{stem} & {values.family()}",
    )  # fmt: skip
