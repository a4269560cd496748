"""What tests share: servers, a world of schedules, sites, and the private names that they reach for."""
