"""Operations of the queue, grouped by who uses them: producers, lanes, operators, maintenance."""
