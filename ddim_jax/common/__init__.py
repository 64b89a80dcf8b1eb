"""What several rooms need and none of them owns: whole writes, arrays that must fit, packages that only some uses need."""
