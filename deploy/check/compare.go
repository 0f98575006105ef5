package main

import (
	"fmt"
	"regexp"
	"strings"

	"github.com/google/go-cmp/cmp"
	"sigs.k8s.io/yaml"
)

var generated = regexp.MustCompile(`^(dogwatch-(?:agent|collector)-config)-[a-z0-9]{10}$`)

// sameObjects says in what the chart departs from kustomize, besides what each tool writes for itself.
func sameObjects(kustomized, charted render) (problems []string) {
	left, right := normal(kustomized), normal(charted)
	for name, o := range left {
		other, ok := right[name]
		if !ok {
			problems = append(problems, fmt.Sprintf("%s has %s and %s has not", kustomized.name, name, charted.name))
		} else if diff := cmp.Diff(o, other); diff != "" {
			problems = append(problems, fmt.Sprintf("%s differs (-%s +%s):\n%s", name, kustomized.name, charted.name, diff))
		}
	}
	for name := range right {
		if _, ok := left[name]; !ok {
			problems = append(problems, fmt.Sprintf("%s has %s and %s has not", charted.name, name, kustomized.name))
		}
	}
	return problems
}

// normal gives the objects by name, without what a tool adds and with embedded YAML parsed.
func normal(r render) map[string]any {
	all := map[string]any{}
	for _, o := range r.objects {
		o := rename(map[string]any(o)).(map[string]any)
		metadata := dig(o, "metadata").(map[string]any)
		if labels, ok := metadata["labels"].(map[string]any); ok {
			delete(labels, "app.kubernetes.io/managed-by")
			delete(labels, "helm.sh/chart")
		}
		if annotations, ok := dig(o, "spec", "template", "metadata", "annotations").(map[string]any); ok {
			delete(annotations, "dogwatch.dev/config")
		}
		if o["kind"] == "Service" && dig(o, "spec", "type") == nil {
			// The API's default.
			dig(o, "spec").(map[string]any)["type"] = "ClusterIP"
		}
		if o["kind"] == "ConfigMap" {
			data, _ := o["data"].(map[string]any)
			for key, value := range data {
				var parsed any
				if err := yaml.Unmarshal([]byte(str(value)), &parsed); err == nil {
					data[key] = parsed
				}
			}
		}
		all[object(o).String()] = o
	}
	return all
}

func rename(v any) any {
	switch v := v.(type) {
	case map[string]any:
		copied := map[string]any{}
		for key, value := range v {
			copied[key] = rename(value)
		}
		return copied
	case []any:
		copied := make([]any, len(v))
		for i := range v {
			copied[i] = rename(v[i])
		}
		return copied
	case string:
		return generated.ReplaceAllString(v, "$1")
	}
	return v
}

// references says which objects name another that is not there.
func references(r render) (problems []string) {
	// Made by hand after the first start.
	known := map[string]bool{"ConfigMap/dogwatch-ca": true}
	for _, o := range r.objects {
		known[o.String()] = true
	}
	need := func(from object, kind string, name any) {
		if n := str(name); n != "" && !known[kind+"/"+n] {
			problems = append(problems, fmt.Sprintf("%s: %s names %s/%s, which is not there", r.name, from, kind, n))
		}
	}
	for _, o := range r.objects {
		if ns := str(dig(o, "metadata", "namespace")); ns == "" && namespaced(o.kind()) {
			problems = append(problems, fmt.Sprintf("%s: %s has no namespace", r.name, o))
		}
		spec := dig(o, "spec", "template", "spec")
		need(o, "ServiceAccount", dig(spec, "serviceAccountName"))
		need(o, "Service", dig(o, "spec", "serviceName"))
		need(o, "ClusterRole", dig(o, "roleRef", "name"))
		for _, subject := range list(dig(o, "subjects")) {
			need(o, str(dig(subject, "kind")), dig(subject, "name"))
		}
		volumes := map[string]bool{}
		for _, claim := range list(dig(o, "spec", "volumeClaimTemplates")) {
			volumes[str(dig(claim, "metadata", "name"))] = true
		}
		for _, v := range list(dig(spec, "volumes")) {
			volumes[str(dig(v, "name"))] = true
			need(o, "ConfigMap", dig(v, "configMap", "name"))
			for _, source := range list(dig(v, "projected", "sources")) {
				need(o, "ConfigMap", dig(source, "configMap", "name"))
			}
		}
		for _, c := range list(dig(spec, "containers")) {
			for _, m := range list(dig(c, "volumeMounts")) {
				if !volumes[str(dig(m, "name"))] {
					problems = append(problems, fmt.Sprintf("%s: %s mounts %v, which is no volume of it", r.name, o, dig(m, "name")))
				}
			}
		}
	}
	return problems
}

func namespaced(kind string) bool {
	return kind != "Namespace" && !strings.HasPrefix(kind, "ClusterRole")
}
