# Everything a person or a machine runs on this repository. `make help` lists it.
# The toolchain is named in rust-toolchain.toml; rustup fetches it.

SHELL := /bin/bash
.DEFAULT_GOAL := help
.PHONY: help demo test portable lint fmt bench chaos soak coverage cross

help: ## this list
	@awk -F ':.*## ' '/^[a-z]+:.*## /{printf "  make %-10s %s\n", $$1, $$2}' Makefile

demo: ## build, then see one tunnel work: router, web service and tunnel in one process
	cargo run --locked -- demo

test: ## everything a change must pass; installs the packages that it needs (Debian)
	scripts/test

portable: ## build, unit tests and the loopback suite: what runs on macOS and Windows too
	scripts/portable

lint: ## rustfmt, clippy, rustdoc, shellcheck; no test
	scripts/lint

fmt: ## format the sources
	cargo fmt

bench: ## speed beside no tunnel, a TCP relay and a TLS relay; STORE=name keeps the run for docs/performance.md
	cargo bench --locked --bench parts
	cargo bench --locked --bench tunnel -- $(if $(STORE),--store $(STORE))
	$(if $(STORE),cargo bench --locked --bench runs -- page)

chaos: ## routers and tunnels killed, paths cut and blocked, ten thousand transfers: a table; an hour or more
	scripts/chaos

soak: ## hours of ordinary work with memory and descriptors watched (CONDUIT_SOAK_MINUTES, default 60)
	cargo nextest run --locked --profile soak

coverage: ## lines covered by `cargo nextest run`; fails below 90 %
	scripts/coverage

cross: ## compile for Windows, arm64 and armv7 (checked, not run)
	scripts/cross
