// Command images builds the container images that are deployed: one for each function, and the migrate job's.
//
//	images [NAME…]                            into the OCI layout bin/images, without a network
//	images -push REPOSITORY [-tag T] [NAME…]  into a registry, with an SPDX bill of materials beside each
//
// It is run in tools/deploy. Without names all are built. Each line of the answer is a name and a reference with a digest. The digest depends on the
// sources and on the versions in the two go.mod alone, and not on the place, the time or the commit: a function that did not
// change keeps its digest.
package main

import (
	"cmp"
	"context"
	"flag"
	"fmt"
	"io"
	"log"
	"os"
	"os/signal"
	"path/filepath"
	"slices"
	"syscall"

	"github.com/google/go-containerregistry/pkg/authn"
	"github.com/google/go-containerregistry/pkg/name"
	v1 "github.com/google/go-containerregistry/pkg/v1"
	"github.com/google/go-containerregistry/pkg/v1/empty"
	"github.com/google/go-containerregistry/pkg/v1/google"
	"github.com/google/go-containerregistry/pkg/v1/layout"
	"github.com/google/go-containerregistry/pkg/v1/match"
	"github.com/google/ko/pkg/build"
	"github.com/google/ko/pkg/publish"
)

// refName is the annotation by which an image in a layout is found.
const refName = "org.opencontainers.image.ref.name"

func main() {
	push := flag.String("push", "", "repository to push to, as in europe-west1-docker.pkg.dev/PROJECT/usher")
	tag := flag.String("tag", "latest", "tag of what is pushed")
	flag.Parse()
	ctx, stop := signal.NotifyContext(context.Background(), os.Interrupt, syscall.SIGTERM)
	err := run(ctx, *push, *tag, flag.Args())
	stop()
	if err != nil {
		fmt.Fprintln(os.Stderr, "images:", err)
		os.Exit(1)
	}
}

func run(ctx context.Context, push, tag string, names []string) error {
	log.SetOutput(io.Discard) // ko says on it what it is doing
	root := filepath.Join("..", "..")
	programs, err := programs(root)
	if err != nil {
		return err
	}
	if len(names) == 0 {
		for program := range programs {
			names = append(names, program)
		}
		slices.Sort(names)
	}
	for _, program := range names {
		folder, ok := programs[program]
		if !ok {
			return fmt.Errorf("there is no function %s", program)
		}
		result, err := imageOf(ctx, root, folder, filepath.Join(root, "bin", "sbom", program))
		if err != nil {
			return fmt.Errorf("build %s: %w", program, err)
		}
		var reference fmt.Stringer
		if push == "" {
			reference, err = store(filepath.Join(root, "bin", "images"), program, result)
		} else {
			reference, err = pushed(ctx, push, program, tag, result)
		}
		if err != nil {
			return fmt.Errorf("write %s: %w", program, err)
		}
		fmt.Println(program, reference)
	}
	return nil
}

// programs is what is deployed, name to folder: every function but all, and the migrate job.
func programs(root string) (map[string]string, error) {
	mains, err := filepath.Glob(filepath.Join(root, "functions", "*", "cmd", "main.go"))
	if err != nil {
		return nil, err
	}
	found := map[string]string{"migrate": "migrations/cmd"}
	for _, main := range mains {
		if function := filepath.Base(filepath.Dir(filepath.Dir(main))); function != "all" {
			found[function] = "functions/" + function + "/cmd"
		}
	}
	return found, nil
}

// imageOf builds the image of the program in a folder of the sources at root, and writes its bill of materials to sbom.
func imageOf(ctx context.Context, root, folder, sbom string) (build.Result, error) {
	under, err := base()
	if err != nil {
		return nil, err
	}
	// The name of the base stands in the image, and leads nowhere.
	reference, err := name.ParseReference("usher.invalid/base:latest")
	if err != nil {
		return nil, err
	}
	path := "ko://github.com/coditect/usher/" + folder
	builder, err := build.NewGo(ctx, root,
		build.WithBaseImages(func(context.Context, string) (name.Reference, build.Result, error) { return reference, under, nil }),
		build.WithPlatforms("linux/amd64"),
		build.WithTrimpath(true),
		// Without the commit, or each would change every binary.
		build.WithDefaultFlags([]string{"-buildvcs=false"}),
		build.WithDefaultLdflags([]string{"-s", "-w"}),
		build.WithDefaultEnv([]string{"CGO_ENABLED=0", "GOFLAGS=-mod=readonly", "GOAMD64=v1"}),
		build.WithSPDX("usher"),
		build.WithSBOMDir(sbom),
		build.WithJobs(1),
	)
	if err != nil {
		return nil, err
	}
	if err := builder.IsSupportedReference(path); err != nil {
		return nil, err
	}
	return builder.Build(ctx, path)
}

// store puts the image into the layout, in the place of one of its name.
func store(directory, program string, result build.Result) (fmt.Stringer, error) {
	img, ok := result.(v1.Image)
	if !ok {
		return nil, fmt.Errorf("is no image: %T", result)
	}
	path, err := layout.FromPath(directory)
	if err != nil {
		if path, err = layout.Write(directory, empty.Index); err != nil {
			return nil, err
		}
	}
	if err := path.ReplaceImage(img, match.Annotation(refName, program), layout.WithAnnotations(map[string]string{refName: program})); err != nil {
		return nil, err
	}
	return img.Digest()
}

// pushed puts the image into a registry as REPOSITORY/PROGRAM. What is there already is not sent again.
func pushed(ctx context.Context, repository, program, tag string, result build.Result) (fmt.Stringer, error) {
	publisher, err := publish.NewDefault(repository,
		publish.WithNamer(func(base, _ string) string { return base + "/" + program }),
		// What docker is logged in to, or else the account of the machine or of gcloud.
		publish.WithAuthFromKeychain(authn.NewMultiKeychain(authn.DefaultKeychain, google.Keychain)),
		publish.WithTags([]string{cmp.Or(tag, "latest")}),
	)
	if err != nil {
		return nil, err
	}
	defer func() { _ = publisher.Close() }()
	return publisher.Publish(ctx, result, program)
}
