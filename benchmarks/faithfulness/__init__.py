"""How faithful explanations are: whether an answer changes where its heat map says that it rests."""
