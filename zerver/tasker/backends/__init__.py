"""What carries word of tasks to who runs them; see ``base`` for the contract."""
