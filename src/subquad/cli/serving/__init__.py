"""What `subquad serve` is made of: answers of a run, and the application that gives them."""
