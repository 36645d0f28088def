for (const head of document.querySelectorAll(".sortable th")) head.onclick = () => {
  const table = head.closest("table"), body = table.tBodies[0], column = head.cellIndex
  const up = head.dataset.up = head.dataset.up === "1" ? "" : "1"
  const key = row => row.cells[column].textContent.trim(), number = text => parseFloat(text.replaceAll(",", ""))
  body.append(...[...body.rows].sort((a, b) => {
    const [x, y] = [key(a), key(b)], [p, q] = [number(x), number(y)]
    return (isNaN(p) || isNaN(q) ? x.localeCompare(y) : p - q) * (up ? 1 : -1)
  }))
}
