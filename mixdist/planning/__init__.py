"""What a run will take, before anything is booked: `mixdist plan`."""
