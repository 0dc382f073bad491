"""Numbers that the answer needs: doses, measurements, ratios, scores. They are no identifiers."""

from __future__ import annotations

import re

_UNIT = re.compile(
    r"[ -]?(?:%|‰|°|(?:m?c?g|ug|μg|ng|pg|kg|m?eq|mmol|umol|μmol|nmol|pmol|mol|m?iu|ui|u|units?|unidades|m?l|dl|cl|mm|cm|km|nm|μm|um|m|ft|in|lb|lbs|oz|mmhg|cmh2o|kpa|pa|hz|khz|mhz|ghz|bpm|hu|gy|mgy|cgy|msv|mci|"
    r"mbq|gbq|kvp?|mas?|ma|mv|ev|kev|w|kw|ohms?|v|j|ms|msec|s|sec|secs|seconds?|segundos?|min|mins|minutes?|minutos?|h|hr|hrs|hours?|horas?|days?|dias?|weeks?|semanas?|months?|meses|years?|anos|yrs?|"
    r"cells?|celulas|copies|copias|mil|thousand|million|steps|slices|images|imagens|fps|rpm|kcal|cal|kb|mb|gb|bytes|pixels|px|tablets?|comprimidos?|gotas|drops|puffs|x10|times|vezes|db|d|f|c)(?![a-z0-9])"
    r"|[/](?:u?l|ml|dl|μl|ul|mm|min|h|day|dia|kg|hpf|campo)|[x×*] ?10|mm3|mm\^3|10\^|个|毫|厘|微|克|升|次|岁|天|周|月|小时|分钟|秒|片|粒|支|瓶|倍|℃|度|帧|层)"
)


def follows_unit(folded: str, position: int) -> bool:
    """Whether a unit of measurement stands at this position."""
    return _UNIT.match(folded, position) is not None
