"""What happens in a forward: what is kept, edited and stopped, and how it stands still."""
