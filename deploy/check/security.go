package main

import (
	"fmt"
	"regexp"
	"sort"
	"strings"

	corev1 "k8s.io/api/core/v1"
	psa "k8s.io/pod-security-admission/api"
	"k8s.io/pod-security-admission/policy"
	"sigs.k8s.io/yaml"
)

// The privileges that anything here may have; whoever adds one changes this, the manifest's comment and the README.
var (
	agentReads    = []string{"DAC_READ_SEARCH", "SYS_PTRACE", "SYSLOG"}
	agentCleans   = []string{"DAC_OVERRIDE", "DAC_READ_SEARCH", "FOWNER", "LEASE", "SYSLOG", "SYS_PTRACE"}
	alwaysWritten = []string{"/var/lib/dogwatch"}
)

// privileges asserts what pods and accounts may do.
func privileges(r render) (problems []string) {
	say := func(format string, args ...any) {
		problems = append(problems, r.name+": "+fmt.Sprintf(format, args...))
	}
	for _, o := range r.objects {
		switch o.kind() {
		case "Role", "RoleBinding", "Secret":
			say("%s has no business here", o)
		case "ClusterRole":
			rules, _ := yaml.Marshal(o["rules"])
			if string(rules) != "- apiGroups:\n  - authentication.k8s.io\n  resources:\n  - tokenreviews\n  verbs:\n  - create\n" {
				say("%s allows more than creating token reviews:\n%s", o, rules)
			}
		case "ClusterRoleBinding":
			for _, s := range list(o["subjects"]) {
				if str(dig(s, "name")) != "dogwatch-collector" {
					say("%s binds %v", o, dig(s, "name"))
				}
			}
		case "ServiceAccount":
			if o["automountServiceAccountToken"] != false {
				say("%s mounts its token everywhere", o)
			}
		}
	}
	if agent := r.get("DaemonSet", "dogwatch-agent"); agent == nil {
		say("there is no agent")
	} else {
		pod := podOf(agent)
		container := pod.Spec.Containers[0]
		var writable []string
		cleans := false
		for _, m := range container.VolumeMounts {
			if !m.ReadOnly {
				writable = append(writable, m.MountPath)
				cleans = cleans || m.MountPath != alwaysWritten[0]
			}
		}
		wanted := agentReads
		if cleans {
			wanted = agentCleans
		}
		var added []string
		for _, c := range container.SecurityContext.Capabilities.Add {
			added = append(added, string(c))
		}
		sort.Strings(added)
		wanted = append([]string{}, wanted...)
		sort.Strings(wanted)
		if strings.Join(added, " ") != strings.Join(wanted, " ") {
			say("the agent, writing to %v, has the capabilities %v and should have %v", writable, added, wanted)
		}
		if strings.Contains(r.name, "reader-only") && cleans {
			say("the reader writes to %v", writable)
		}
		if pod.Spec.AutomountServiceAccountToken == nil || *pod.Spec.AutomountServiceAccountToken {
			say("the agent has the API's token mounted")
		}
		problems = append(problems, hardened(r.name, "the agent", pod)...)
	}
	if collector := r.get("StatefulSet", "dogwatch-collector"); collector != nil {
		pod := podOf(collector)
		problems = append(problems, hardened(r.name, "the collector", pod)...)
		// The collector needs no exemption at all.
		for _, result := range evaluate(pod, psa.LevelRestricted) {
			if !result.Allowed {
				say("the collector breaks the restricted level: %s (%s)", result.ForbiddenReason, result.ForbiddenDetail)
			}
		}
	}
	return problems
}

func hardened(where, who string, pod corev1.Pod) (problems []string) {
	say := func(what string) { problems = append(problems, where+": "+who+" "+what) }
	if pod.Spec.HostNetwork {
		say("is in the host's network")
	}
	for _, c := range pod.Spec.Containers {
		s := c.SecurityContext
		if s.ReadOnlyRootFilesystem == nil || !*s.ReadOnlyRootFilesystem {
			say("can write to its root")
		}
		if s.AllowPrivilegeEscalation == nil || *s.AllowPrivilegeEscalation {
			say("can gain privileges")
		}
		if len(s.Capabilities.Drop) != 1 || s.Capabilities.Drop[0] != "ALL" {
			say("does not drop all capabilities")
		}
		if pod.Spec.SecurityContext.SeccompProfile.Type != corev1.SeccompProfileTypeRuntimeDefault {
			say("has no seccomp profile")
		}
		if c.Resources.Limits.Memory().IsZero() || c.Resources.Requests.Memory().IsZero() {
			say("has no bound on its memory")
		}
		if c.LivenessProbe == nil || c.ReadinessProbe == nil || c.StartupProbe == nil {
			say("has not all three probes")
		}
	}
	return problems
}

func podOf(workload object) corev1.Pod {
	var pod corev1.Pod
	text, err := yaml.Marshal(dig(workload, "spec", "template"))
	if err == nil {
		err = yaml.UnmarshalStrict(text, &pod)
	}
	if err != nil {
		panic(fmt.Sprintf("%s: %v", workload, err))
	}
	return pod
}

func evaluate(pod corev1.Pod, level psa.Level) []policy.CheckResult {
	evaluator, err := policy.NewEvaluator(policy.DefaultChecks(), nil)
	if err != nil {
		panic(err)
	}
	version := psa.LevelVersion{Level: level, Version: psa.MajorMinorVersion(1, 34)}
	return evaluator.EvaluatePod(version, &pod.ObjectMeta, &pod.Spec)
}

// row is a line of the README's table: | way | what Pod Security says | … |
var row = regexp.MustCompile("(?m)^\\| (cleaning|reader-only) \\| `([^`]+)` \\|")

// exemptions compares what Pod Security's baseline refuses of the agent with the README's table.
func exemptions(renders []render, readme string) (problems []string) {
	told := map[string][]string{}
	for _, m := range row.FindAllStringSubmatch(readme, -1) {
		told[m[1]] = append(told[m[1]], m[2])
	}
	for way, name := range map[string]string{"cleaning": "kustomize/kubeadm", "reader-only": "kustomize/reader-only"} {
		var needed []string
		for _, result := range evaluate(podOf(find(renders, name).get("DaemonSet", "dogwatch-agent")), psa.LevelBaseline) {
			if !result.Allowed {
				needed = append(needed, result.ForbiddenReason+": "+result.ForbiddenDetail)
			}
		}
		sort.Strings(needed)
		sort.Strings(told[way])
		if strings.Join(needed, "\n") != strings.Join(told[way], "\n") {
			problems = append(problems, fmt.Sprintf("README.md, table of exemptions, %s: it says\n  %s\nand Pod Security says\n  %s",
				way, strings.Join(told[way], "\n  "), strings.Join(needed, "\n  ")))
		}
	}
	return problems
}

// runbook says which alerts have no section in the README.
func runbook(r render, readme string) (problems []string) {
	for _, group := range list(dig(r.get("PrometheusRule", "dogwatch"), "spec", "groups")) {
		for _, rule := range list(dig(group, "rules")) {
			alert := str(dig(rule, "alert"))
			for _, key := range []string{"summary", "description", "runbook_url"} {
				if str(dig(rule, "annotations", key)) == "" {
					problems = append(problems, fmt.Sprintf("alert %s has no %s", alert, key))
				}
			}
			if !strings.HasSuffix(str(dig(rule, "annotations", "runbook_url")), "/deploy/README.md#"+strings.ToLower(alert)) {
				problems = append(problems, fmt.Sprintf("alert %s leads elsewhere than to its section", alert))
			}
			if !strings.Contains(readme, "\n### "+alert+"\n") {
				problems = append(problems, fmt.Sprintf("README.md has no section ### %s", alert))
			}
		}
	}
	return problems
}
