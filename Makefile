# Bare `make` lists what can be made. Settings: PORT, FUZZTIME, BENCH, PACKAGES, IMAGES, TESTFLAGS, NO_COLOR.

SHELL       := bash
.SHELLFLAGS := -euo pipefail -c
MAKEFLAGS   += --no-print-directory

TOOL      := go tool -modfile=tools/go.mod
FUZZTIME  ?= 30s
BENCH     ?=
TESTFLAGS ?=
PACKAGES  ?= ./...
IMAGES    ?=

.DEFAULT_GOAL := help
.PHONY: help run cli demo test check format lint drift licenses vulnerabilities bench capacity microbench generate fix fuzz install pictures clean \
	infra pipeline images compatible pipeline-dry-run deploy rollback prove model machine races history herd chaos cluster pooler money meter incidents firebase

help: ## List the targets
	@bold= plain=; \
	if [ -t 1 ] && [ -z "$${NO_COLOR:-}" ]; then bold=$$'\033[1m' plain=$$'\033[0m'; fi; \
	awk -v bold="$$bold" -v plain="$$plain" 'BEGIN { FS = ":.*## " } \
		/^[a-z-]+:.*## / { printf "  %smake %-16s%s %s\n", bold, $$1, plain, $$2 }' $(MAKEFILE_LIST)

run: ## Serve every function on http://127.0.0.1:8080, with private stores and a demo licence
	@go build -o bin/usher ./functions/all/cmd
	@exec bin/usher

cli: ## Build the command line, bin/cli/usher, as a static binary
	@CGO_ENABLED=0 go build -trimpath -ldflags "-s -w -X main.released=$$(git describe --tags --always --dirty)" -o bin/cli/usher ./client/cmd/usher

demo: ## Watch 25 clients share 10 seats for a minute
	@go run ./functions/all/cmd/demo

test: install ## Run every test with the race detector, on private stores
	@$(TOOL) gotestsum --format pkgname --format-hide-empty-pkg -- -race -vet=off -ldflags=-w -timeout 5m $(TESTFLAGS) $(PACKAGES)

check: install format lint drift licenses vulnerabilities infra pipeline ## Check format, lint, layout, generated files, licences, vulnerabilities, infra/ and the pipeline

format: ## Check that the code is formatted (make fix does it)
	@$(TOOL) golangci-lint fmt --diff

firebase: install ## Sign up at the Firebase Auth emulator, and register with what it says (needs firebase-tools)
	@go test -race -count=1 -tags firebase -run Firebase ./functions/register

fix: ## Format the code and mend what the linters can mend
	@$(TOOL) golangci-lint fmt
	@$(TOOL) golangci-lint run --fix

lint: ## Run the linters, import rules included
	@go vet ./...
	@go vet -tags firebase ./functions/register
	@go vet -tags rehearsal ./functions/all/rehearsal
	@for system in darwin windows; do GOOS=$$system CGO_ENABLED=0 go vet ./client/... || exit; done
	@GOOS=linux GOARCH=386 CGO_ENABLED=0 go vet ./client/...
	@$(TOOL) golangci-lint run

drift: install ## Check the layout, and that schema.sql and the OpenAPI document are what the code says
	@go test -race -count=1 -run '^Test(Layout|Schema|OpenAPI)' $$(grep -rlE '^func Test(Layout|Schema|OpenAPI)' --include='*_test.go' . | xargs -n1 dirname | sort -u)

licenses: ## Check that we may use every dependency
	@tools/check-licenses

vulnerabilities: ## Check that no known vulnerability is reachable
	@tools/check-vulnerabilities

infra: ## Check infra/ without a cloud: Terraform's names and types, plans of each environment, the table against the code
	@tools/infra

pipeline: ## Check cloudbuild.yaml, and the command that releases
	@go -C tools/deploy vet ./...
	@cd tools/deploy && go tool -modfile=../go.mod golangci-lint run ./...
	@go -C tools/deploy test -count=1 . ./release

images: ## Build an image of each function and of the migrate job, or of those in IMAGES, without a network, into bin/images, and check them
	@go -C tools/deploy run ./images $(IMAGES)
	@IMAGES='$(IMAGES)' go -C tools/deploy test -count=1 ./images

compatible: install ## Run the seat tests of the version before the migrations last changed, on the migrations of this one
	@tools/compatible

pipeline-dry-run: compatible install infra pipeline images ## Go through a release as far as one machine can: images with infra's variables, on private stores
	@go test -count=1 -tags rehearsal ./functions/all/rehearsal

deploy: ## Release this commit to PROJECT, which is environment ENV (dev, staging, prod): docs/deploy.md
	@tools/release deploy

rollback: ## Give what served in PROJECT before the last release its traffic again
	@tools/release rollback

bench: install ## Measure the hot path against a yardstick, and write docs/performance (five minutes; BENCH=quick: one, writes nothing)
	@go run ./functions/all/cmd/bench $(BENCH)

capacity: ## Count what a thousand, a million and a hundred million seats take, from what make bench measured, into docs/capacity
	@go run ./functions/all/cmd/capacity

microbench: install ## Run the benchmarks of single packages
	@go test -run '^$$' -bench . -benchmem $(TESTFLAGS) $(PACKAGES)

# Each proof is tests of a package, which run at a small size in make test, and at full size here.
SEAT  := ./shared/seat
HTTP  := ./functions/all/proof
BILLING := ./shared/billing
INCIDENT := ./functions/incident

prove: install ## Prove the seat promise at full size, within an hour, and print a summary
	@tools/prove model=$(SEAT)/model machine=$(SEAT) races=$(SEAT) history=$(HTTP) herd=$(HTTP) chaos=$(HTTP) cluster=$(HTTP) pooler=$(HTTP) money=$(BILLING) meter=$(BILLING) incidents=$(INCIDENT)

model: install ## Prove: check the protocol's model exhaustively, and that no safeguard is idle
	@tools/prove model=$(SEAT)/model

machine: install ## Prove: random calls of the scripts agree with a small reference
	@tools/prove machine=$(SEAT)

races: install ## Prove: openings against new epochs
	@tools/prove races=$(SEAT)

history: install ## Prove: recorded histories are linearizable
	@tools/prove history=$(HTTP)

herd: install ## Prove: a thousand clients at once on cold pools
	@tools/prove herd=$(HTTP)

chaos: install ## Prove: failovers and crashes under load
	@tools/prove chaos=$(HTTP)

cluster: install ## Prove: three Redis masters, slots moving under load
	@tools/prove cluster=$(HTTP)

pooler: install ## Prove: behind PgBouncer in transaction mode
	@tools/prove pooler=$(HTTP)

money: install ## Prove: whatever order Stripe's events come in, what was sold follows what was paid
	@tools/prove money=$(BILLING)

meter: install ## Prove: each unit that is used is at Stripe once, wherever the meter dies
	@tools/prove meter=$(BILLING)

incidents: install ## Prove: a frozen tenant is stopped, an attack is one incident, and nobody else notices
	@tools/prove incidents=$(INCIDENT)

generate: ## Write schema.sql and the OpenAPI document anew
	@go generate ./...

pictures: install ## Take the pictures of the pay page anew
	@go test -count=1 -run InABrowser ./functions/all/local -args -pictures docs/flows

fuzz: install ## Run each fuzz target for FUZZTIME (30s)
	@tools/fuzz $(FUZZTIME)

install: ## Install what the tests need: PostgreSQL, Redis, PgBouncer, a C compiler, Spin, Chromium, Node.js
	@go run ./shared/platform/localenv/install

clean: ## Delete what was built, and all local data
	@if [ -L .local/postgres ]; then rm -rf "$$(readlink .local/postgres)"; fi
	@rm -rf .local bin
