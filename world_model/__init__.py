"""The world model: masked conditional video diffusion with fast and slow learning."""
