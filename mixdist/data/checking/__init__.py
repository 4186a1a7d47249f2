"""Whether a set is whole, and what training on it will meet: what `mixdist check` does."""
