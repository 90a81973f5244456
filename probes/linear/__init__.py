"""Linear and nearest-neighbour probes: what can be read off a layer, and at which depth."""
