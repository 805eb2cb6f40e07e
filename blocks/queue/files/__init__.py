"""Files of tasks: read line by line, and written from what is in the queue."""
