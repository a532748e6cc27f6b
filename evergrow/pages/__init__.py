"""Self-contained HTML pages: a shell, its style, and plots as inline SVG. No script, no request, light and dark."""
