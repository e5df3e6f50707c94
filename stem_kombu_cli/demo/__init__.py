"""``stem demo``: an application, a picture, and the story that is told with them."""
