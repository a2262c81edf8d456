"""What running tools ask of people: questions, answered by the requester of their turn."""
