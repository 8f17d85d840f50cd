"""What people say of the answers of a box, and what the box learns of it."""
