"""What a model achieves on held-out rows, and whether that is enough to replace the champion."""
