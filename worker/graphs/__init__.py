"""Graphs: how they are loaded, how they are described to the gateway, and those that the service ships."""
