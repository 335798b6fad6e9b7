"""What a network costs: parameters, operations, memory, time, and the NTIRE score made of them."""
