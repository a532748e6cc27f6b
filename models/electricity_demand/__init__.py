"""How much electricity Victoria, Australia, needs in a half hour, asked a day ahead."""
