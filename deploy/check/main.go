// Command check renders what deploy/ offers and holds it against the truth, without a cluster:
//
//   - every kustomize overlay and several Helm values are rendered by the tools' own libraries;
//   - every object is validated strictly (unknown fields refused) against the OpenAPI schemas of the last three
//     Kubernetes minors, and those of the Prometheus operator against its CRDs;
//   - Pod Security's own evaluator says which exemptions each pod needs, and the table in deploy/README.md must say the same;
//   - the chart's default must equal the kustomize base, monitoring included;
//   - what the agent and the collector may ask of the API, mount and hold is asserted object by object.
//
// With -out it writes what it rendered: the objects, the daemons' configuration files, and the alert rules for promtool.
//
// It reads the schemas from modules of the Go module proxy, pinned by their hashes. Deliberately absent: a cluster, a
// container runtime, and any opinion that is not written down in deploy/.
package main

import (
	"flag"
	"fmt"
	"io"
	"log"
	"os"
	"path/filepath"
)

func main() {
	deploy := flag.String("deploy", ".", "the folder deploy/")
	out := flag.String("out", "", "folder for what was rendered; empty: nowhere")
	flag.Parse()
	// Helm tells on every render that the chart's files are links; what matters of them is compared below.
	log.SetOutput(io.Discard)
	problems, err := check(*deploy, *out)
	if err != nil {
		fmt.Fprintln(os.Stderr, "check:", err)
		os.Exit(2)
	}
	for _, p := range problems {
		fmt.Fprintln(os.Stderr, p)
	}
	if len(problems) > 0 {
		fmt.Fprintf(os.Stderr, "check: %d problems\n", len(problems))
		os.Exit(1)
	}
}

func check(deploy, out string) ([]string, error) {
	renders, problems, err := renderAll(deploy)
	if err != nil {
		return nil, err
	}
	validator, err := loadSchemas()
	if err != nil {
		return nil, err
	}
	for _, r := range renders {
		for _, o := range r.objects {
			problems = append(problems, validator.validate(r.name, o)...)
		}
		problems = append(problems, privileges(r)...)
		problems = append(problems, references(r)...)
	}
	fmt.Printf("%d renders, each valid by Kubernetes %v\n", len(renders), validator.minors())

	problems = append(problems, sameObjects(find(renders, "kustomize/monitored"), find(renders, "helm/monitored"))...)

	readme, err := os.ReadFile(filepath.Join(deploy, "README.md"))
	if err != nil {
		return nil, err
	}
	problems = append(problems, exemptions(renders, string(readme))...)
	problems = append(problems, runbook(find(renders, "kustomize/monitored"), string(readme))...)
	if out != "" {
		if err := write(out, renders); err != nil {
			return nil, err
		}
	}
	return problems, nil
}

func find(renders []render, name string) render {
	for _, r := range renders {
		if r.name == name {
			return r
		}
	}
	panic("no render is called " + name)
}
