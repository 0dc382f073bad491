"""Chat templates: from messages to the text a model was trained on. The template comes with the model, so it runs in a sandbox."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Collection, Sequence
from typing import Any, Final

from jinja2 import TemplateError
from jinja2.sandbox import ImmutableSandboxedEnvironment

from partition.errors import ModelFileError
from partition.task import Message

# For models that carry no template: one line for each turn.
PLAIN_TEMPLATE: Final = (
    "{% for message in messages %}{{ message['role'] }}: {{ message['content'] }}\n{% endfor %}"
    "{% if add_generation_prompt %}assistant:{% endif %}"
)
_MAX_TEMPLATE_CHARACTERS: Final = 200_000


class ChatTemplate:
    """One model's template. Thread-safe."""

    def __init__(
        self,
        source: str,
        *,
        special_texts: Collection[str],
        bos_text: str = "",
        eos_text: str = "",
    ) -> None:
        """Compile a template.

        Args:
            source: Jinja, as in ``tokenizer.chat_template``.
            special_texts: Spellings of the model's control tokens; a message that contains one gets it broken by a
                space, or whoever writes a report could end it and speak as the system.
            bos_text: Spelling of the token that begins a sequence.
            eos_text: Spelling of the one that ends it.

        Raises:
            ModelFileError: It is no valid template.
        """
        environment = ImmutableSandboxedEnvironment(
            trim_blocks=True, lstrip_blocks=True, extensions=["jinja2.ext.loopcontrols"]
        )
        environment.filters["tojson"] = _to_json
        environment.globals["raise_exception"] = _refuse
        environment.globals["bos_token"] = bos_text
        environment.globals["eos_token"] = eos_text
        self.sha256 = hashlib.sha256(source.encode()).hexdigest()  # both ends compare it
        self._special_texts = sorted((text for text in special_texts if len(text) > 1), key=len)
        self.sha256 = hashlib.sha256(source.encode()).hexdigest()
        if len(source) > _MAX_TEMPLATE_CHARACTERS:
            raise ModelFileError("the model's chat template is far too long; fetch the model again")
        try:
            self._template = environment.from_string(source)
        except TemplateError as error:
            raise ModelFileError(
                f"the model's chat template is wrong ({type(error).__name__}); fetch the model again"
            ) from error

    def render(self, messages: Sequence[Message], *, add_generation_prompt: bool = True) -> str:
        """Write messages as the model expects them, up to where its answer begins.

        Raises:
            ModelFileError: The template refuses these messages, for example a role it does not know.
        """
        turns = [
            {"role": message.role.value, "content": self._harmless(message.text)}
            for message in messages
        ]
        try:
            return self._template.render(
                messages=turns, add_generation_prompt=add_generation_prompt, tools=None
            )
        # The template is a program of its own: besides its own errors it may divide by zero or overflow.
        except (TemplateError, TypeError, ValueError, ArithmeticError, RecursionError) as error:
            raise ModelFileError(
                f"the model's chat template refuses the conversation ({type(error).__name__}); check the order of the roles"
            ) from error

    def _harmless(self, text: str) -> str:
        for special in self._special_texts:
            if special in text:
                text = text.replace(special, f"{special[0]} {special[1:]}")
        return text


def _to_json(value: Any, indent: int | None = None) -> str:
    return json.dumps(value, ensure_ascii=False, indent=indent)


def _refuse(message: str) -> None:
    raise TemplateError(message)
