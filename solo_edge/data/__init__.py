"""Reading annotated images and turning them into what the network learns from."""
