"""What operators' programs are told, made from the declarations: text, and nothing else.

Puppet's templates in ``puppet/`` say the same, byte for byte; ``tests/ops`` compares them.
"""
