"""Dialogs that ask before something changes."""

from __future__ import annotations

from typing import ClassVar

from rich.text import Text
from textual.app import ComposeResult
from textual.binding import BindingType
from textual.containers import Horizontal, Vertical
from textual.screen import ModalScreen
from textual.widgets import Button, Input, Static


class Confirm(ModalScreen[bool]):
    """Asks a question. The result is True if the answer is yes.

    Args:
        question: What is about to be done.
        do: The word on the button that does it.
    """

    BINDINGS: ClassVar[list[BindingType]] = [
        ("escape,n", "answer(False)", "No"),
        ("y", "answer(True)", "Yes"),
    ]

    def __init__(self, question: Text, do: str) -> None:
        super().__init__()
        self._question = question
        self._do = do

    def compose(self) -> ComposeResult:
        """Return the question and its two answers."""
        with Vertical(classes="dialog"):
            yield Static(self._question)
            with Horizontal():
                yield Button("No (n)", id="no")
                yield Button(f"{self._do} (y)", id="yes", variant="warning")

    def on_button_pressed(self, event: Button.Pressed) -> None:
        """Answer by a button."""
        self.dismiss(event.button.id == "yes")

    def action_answer(self, yes: bool) -> None:
        """Answer by a key."""
        self.dismiss(yes)


class Ask(ModalScreen[str | None]):
    """Asks for a line of text. The result is `None` if the dialog is left without one.

    Args:
        question: What the line is for.
        value: What it holds at first.
        placeholder: Shown while it is empty.
    """

    BINDINGS: ClassVar[list[BindingType]] = [("escape", "leave", "Back")]

    def __init__(self, question: Text, *, value: str = "", placeholder: str = "") -> None:
        super().__init__()
        self._question = question
        self._value = value
        self._placeholder = placeholder

    def compose(self) -> ComposeResult:
        """Return the question and the line."""
        with Vertical(classes="dialog"):
            yield Static(self._question)
            yield Input(self._value, placeholder=self._placeholder)

    def on_input_submitted(self, event: Input.Submitted) -> None:
        """Answer with the line."""
        self.dismiss(event.value)

    def action_leave(self) -> None:
        """Leave without an answer."""
        self.dismiss(None)
