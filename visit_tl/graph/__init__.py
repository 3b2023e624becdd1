"""The graph as data: frozen records that know neither torch nor plotly."""
