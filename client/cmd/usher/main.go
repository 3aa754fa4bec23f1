// Command usher is the command line of Usher: for those who run licensed programs, it holds a seat while one runs and
// verifies what was signed; for operators, it sells, suspends and evicts.
//
// It is a client like any other: it knows the HTTP contract and the Go SDK, and nothing of what is behind them. Results go
// to standard output, everything else to standard error. What it exits with is said in exit.go, and in docs/cli.md.
package main

import "os"

func main() { os.Exit(start(os.Args[1:], os.Getenv, os.Stdout, os.Stderr)) }
