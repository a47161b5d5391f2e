"""The engine: topologies, the reallocation (Algorithm 1), the hooks of strategies, and how an update is carried out."""
