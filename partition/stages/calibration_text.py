"""A short text that shows a model's weights what they are multiplied by: turns of a chat, prose, reports, numbers, code, scripts.

Which channels are large hardly depends on the text (2402.17762), but rounding errors are moved by what channels have in common
(``rounding.py``), so there are several registers.
"""

from __future__ import annotations

from typing import Final

from partition.task import Message, Role

CONVERSATIONS: Final[tuple[tuple[Message, ...], ...]] = tuple(
    tuple(Message(role=role, text=text) for role, text in turns)
    for turns in (
        (
            (
                Role.SYSTEM,
                "You are a helpful assistant. You read reports and answer with one word.",
            ),
            (
                Role.USER,
                """Findings: The heart is normal in size. The mediastinum is unremarkable. There is a 3.5 x 2.1 cm opacity in the
right lower lobe, compatible with pneumonia. No pleural effusion or pneumothorax. Degenerative changes of the thoracic
spine are stable. A central line ends in the superior vena cava. Impression: right lower lobe consolidation.

Is this chest X-ray normal or abnormal?""",
            ),
            (Role.ASSISTANT, "abnormal"),
            (
                Role.USER,
                """The lungs are clear bilaterally. Specifically, no evidence of focal consolidation. Cardio mediastinal silhouette
is within normal limits. Visualized osseous structures of the thorax are without acute abnormality. No acute
cardiopulmonary process.""",
            ),
            (Role.ASSISTANT, "normal"),
        ),
        (
            (Role.USER, "Gold settles lower as the dollar strengthens"),
            (Role.ASSISTANT, "The headline says that the price went down."),
            (
                Role.USER,
                """Gold settled at $1,322.90 an ounce on Friday, up 0.4%, as the dollar fell; analysts expect further gains.
Silver for March delivery added 12 cents to $16.71. Crude oil slipped 1.3% after inventories rose by 4.6 million barrels.""",
            ),
            (
                Role.ASSISTANT,
                """Gold and silver rose while oil fell. The main reasons are a weaker dollar and larger stocks of crude oil. If
the central bank raises interest rates in June, as many traders believe, the metals could give back part of these gains.""",
            ),
        ),
        (
            (
                Role.USER,
                "Write a function that returns the area of a circle, and explain what it does.",
            ),
            (
                Role.ASSISTANT,
                """```python
import math


def area(radius: float) -> float:
    if radius < 0:
        raise ValueError("a radius is not negative")
    return math.pi * radius**2
```

The function multiplies the square of the radius by pi. For example, `area(2)` is about 12.566. It refuses a negative
radius, because no circle has one.""",
            ),
            (
                Role.USER,
                """O paciente foi avaliado no dia 12 de março e não apresentou queixas. Pressão arterial 120 x 80 mmHg, frequência
cardíaca 72 bpm. Exames laboratoriais dentro da normalidade. Retorno em seis meses. 胸部X光片未见明显异常，心影大小正常，双肺纹理清晰。""",
            ),
            (
                Role.ASSISTANT,
                """The patient was seen on 12 March and had no complaints; blood pressure, heart rate and laboratory results are
normal, and the next visit is in six months. The Chinese sentence says that the chest film shows nothing abnormal.""",
            ),
        ),
        (
            (
                Role.USER,
                """The old lighthouse keeper climbed the stairs every evening at dusk. He had counted the steps so often that his feet
knew them by heart: one hundred and ninety-eight. At the top he trimmed the wick, wiped the great lens with a soft cloth,
and looked out over the water, where the fishing boats were coming home in a long, uneven line. "Tomorrow there will be
wind," he said to nobody. Continue the story, please, in a few sentences.""",
            ),
            (
                Role.ASSISTANT,
                """The wind came before midnight. It rattled the iron railing and drove the rain against the glass, and the keeper sat
beside the lamp with his coat buttoned to the chin. Once, far out, he thought he saw a light that did not belong to any
boat he knew. It rose, hung still above the waves for the time of a breath, and went out. In the morning he wrote it in
the log between the temperature and the height of the tide, and then, after some thought, he crossed it out again.""",
            ),
            (Role.USER, "Which numbers appear in it? Answer with a list."),
            (Role.ASSISTANT, "1. One hundred and ninety-eight steps\n2. One light far out at sea"),
        ),
        (
            (Role.SYSTEM, "Answer questions about science and history briefly and exactly."),
            (Role.USER, "Why is the sky blue, and who explained it first?"),
            (
                Role.ASSISTANT,
                """Air molecules scatter short wavelengths far more strongly than long ones: the scattered intensity grows with the
inverse fourth power of the wavelength. Blue light therefore reaches us from every direction, while red light passes almost
straight through. Lord Rayleigh derived the law in 1871; Albert Einstein completed the theory in 1910.""",
            ),
            (Role.USER, "And when did the first people land on the Moon?"),
            (
                Role.ASSISTANT,
                "On 20 July 1969 Neil Armstrong and Buzz Aldrin landed with Apollo 11; Michael Collins stayed in orbit.",
            ),
        ),
    )
)
