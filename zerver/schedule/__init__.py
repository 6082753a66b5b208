"""What happens at its time without anybody's asking."""
