"""What is kept: versions taken over, deleted, brought back and cleaned away; and what others did to the tables."""
