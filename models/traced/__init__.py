"""Any PyTorch module on light: its products, caught below autograd. Needs the extra `torch`.

`lightloom.torch` is its front door.
"""
