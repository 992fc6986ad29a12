"""Short programs that share the code of the product and add a clock."""
