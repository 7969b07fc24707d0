"""The alphabet of the house: errors, random streams, equation tags, cards, registry, JSON, optional imports, logging."""
