"""Functions of tensors: patterns, and the engines that evaluate attention over them."""
