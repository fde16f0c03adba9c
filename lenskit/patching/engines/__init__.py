"""How a sweep's cells are computed: as packed rows, or in one batch per layer; both exactly."""
