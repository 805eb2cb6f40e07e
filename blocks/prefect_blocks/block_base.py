"""Base class of the blocks: loading by name, with or without a Prefect server."""

from __future__ import annotations

from typing import Self

from organism_flows.blocks.errors import ConfigurationError
from organism_flows.blocks.process_environment import join_stack
from organism_flows.blocks.settings import load_settings

# Before the import of Prefect, which reads its settings when it is imported.
join_stack(load_settings().home)

from prefect.blocks.core import Block  # noqa: E402
from prefect.settings import PREFECT_API_URL  # noqa: E402

DEFAULT = "default"


class NamedBlock(Block):
    """A block that is loaded by name and also works without a Prefect server.

    The document called ``default`` need not exist. Its fields then have their defaults: the values of the
    environment, or else those of the embedded stack.
    """

    @classmethod
    async def named(cls, name: str = DEFAULT) -> Self:
        """Return the block document ``name``.

        Raises:
            ConfigurationError: The document does not exist or cannot be read.
        """
        # Without an address Prefect would start a server of its own just to read the document.
        if not PREFECT_API_URL.value():
            if name == DEFAULT:
                return cls()
            raise ConfigurationError(
                f"cannot load {cls.get_block_type_slug()}/{name}: no Prefect server is configured",
                "set PREFECT_API_URL, or run `organism up`",
            )
        try:
            return await cls.aload(name)
        except ValueError as error:
            if name == DEFAULT and "Unable to find block document" in str(error):
                return cls()
            raise ConfigurationError(
                f"cannot load the block {cls.get_block_type_slug()}/{name}: {error}",
                "create or correct it under Blocks in the Prefect UI",
            ) from None

    @classmethod
    async def ensure_registered(cls) -> None:
        """Register the type on the server, and create its ``default`` document if there is none.

        An existing document is not changed.
        """
        await cls.aregister_type_and_schema()
        try:
            await cls.aload(DEFAULT)
        except ValueError:
            await cls().asave(DEFAULT)
