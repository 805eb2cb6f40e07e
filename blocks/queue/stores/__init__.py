"""Operations of the queue, grouped by who needs them: producers, lanes, operators, upkeep."""
