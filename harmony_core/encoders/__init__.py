"""What the model is told, as tokens: captions, the transcript, a reference voice."""
