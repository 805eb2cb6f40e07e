"""The screens of `organism top`. Textual is imported here only: other commands do not pay for it."""
