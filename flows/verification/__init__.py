"""The checks of `verify`: each asks one part of the system and says what to do when it is not well."""
