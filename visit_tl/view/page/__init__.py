"""The interactive page: one HTML file with data (columns of numbers), a script and a template.

Nothing here needs Plotly or a network.
"""
