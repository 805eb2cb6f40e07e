"""What a lane claims next: the lines of waiting tasks, and in which order and shares it takes from them."""
