"""The board: a page that shows how the queue, the lanes and the organism stand, and steers tasks."""
