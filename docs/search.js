/* How Sphinx ranks what the search finds: guides first, then the reference, then records. */
const RECORDS = /^(decisions\/|notebooks\/|(benchmarks|changelog|examples|log)$)/;
const REFERENCE = /^(api|command-line|config|formats|index|promises)$/;

var Scorer = {
  score: ([name, , , , score, , kind]) => {
    if (kind !== "text") return score; // names of the API, and titles that were typed
    return score / (RECORDS.test(name) ? 100 : REFERENCE.test(name) ? 10 : 1);
  },
  objNameMatch: 11,
  objPartialMatch: 6,
  objPrio: { 0: 15, 1: 5, 2: -5 },
  objPrioDefault: 0,
  title: 15,
  partialTitle: 7,
  term: 5,
  partialTerm: 2,
};
